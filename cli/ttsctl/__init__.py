"""The command line: ``ttsctl``."""

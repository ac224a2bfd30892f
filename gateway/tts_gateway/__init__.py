"""The HTTP door: ``/health`` and ``/ready``. It does not take speech requests yet."""

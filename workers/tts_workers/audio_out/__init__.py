"""What is done to speech on its way into a file: loudness, peaks, edges of segments, subtitles."""

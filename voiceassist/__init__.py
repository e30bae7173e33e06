"""The VoiceAssist backend: a voice assistant for clinicians."""

__version__ = "0.1.0"

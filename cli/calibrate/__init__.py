"""``headway calibrate``."""

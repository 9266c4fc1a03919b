"""Measuring on a real device. A worker process holds torch; the parent never imports it."""

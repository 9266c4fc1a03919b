"""The latency of a product on any GPU: roofline, calibration, interpolation, and how far off."""

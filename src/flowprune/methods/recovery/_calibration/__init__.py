"""What refits on calibration images share."""

"""Speed, as ratios within one run on one machine. Never asserted in a test."""

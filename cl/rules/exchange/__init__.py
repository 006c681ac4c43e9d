"""Chat histories of other programs coming in, data sets in the forms of other trainers going out."""

"""What the flower scripts are made of.

  folders      classes and splits in a folder of photos
  photo        a photo becomes an image of 299x299 pixels
  data_file    the images, written and mapped
  backbone     the pre-trained checkpoint
  bottlenecks  what the last layer reads of each photo, kept
  evaluation   scores and reports
"""

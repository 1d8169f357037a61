// Libraries that others open, and of which nothing is called here.

"""Strain under no Lorentzian background and one of 70 %, beside py4DSTEM and libertem-blobfinder."""

from strain_comparison import main

if __name__ == "__main__":
    main(("background-0", "background-70"), __doc__)

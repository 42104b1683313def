"""Mean error of strain in grains at random rotations, beside py4DSTEM and libertem-blobfinder."""

from strain_comparison import main

if __name__ == "__main__":
    main(("grains-256", "grains-128"), __doc__)

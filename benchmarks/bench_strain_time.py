"""Time a pattern, in turn with py4DSTEM and libertem-blobfinder."""

from strain_comparison import main

if __name__ == "__main__":
    main(("time",), __doc__)

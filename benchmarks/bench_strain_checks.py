"""Whether composed patterns flatter, and strain in patterns of a generator that others wrote."""

from strain_comparison import main

if __name__ == "__main__":
    main(("pyxem", "multislice", "composed"), __doc__)

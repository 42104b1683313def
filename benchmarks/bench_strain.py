"""Strain of structured disks at two doses and disk sizes, beside py4DSTEM and libertem-blobfinder."""

from strain_comparison import main

if __name__ == "__main__":
    main(("Si-256", "SrTiO3-256", "Si-128", "SrTiO3-128"), __doc__)

"""Mean error of strain in grains at random rotations, of the autoencoder alone: of others none is published."""

from strain_comparison import main

if __name__ == "__main__":
    main(("grains-256", "grains-128"), __doc__, without="peers")

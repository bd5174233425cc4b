"""What is on disk: formats turn manifests into files and files into manifests."""

"""The best candidate within a loss, found by trying: proposals, tries by DVC, and what came out."""

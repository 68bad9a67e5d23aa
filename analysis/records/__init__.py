"""Records of a study, read, checked and held together."""

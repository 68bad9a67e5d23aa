"""From a source of preference data to pairs, splits and token ids."""

"""The way of the data: raw document -> ids -> packed rows -> shard -> row view -> batch."""

"""Columns of the two indexes that a search reads instead of rows (services/api/queries_sightings).

`ix_sighting_search` holds all that columns decide, so that a row is read once it is a candidate;
`ix_segment_camera_end` what the coverage of a search adds up.
"""

SIGHTING_SEARCH = [
    "camera_id", "start_us", "id", "end_us", "expires_at_us", "class_name", "confidence", "speed",
    "colour_upper", "colour_lower", "colour_vehicle", "min_x", "min_y", "max_x", "max_y",
]  # fmt: skip
SEGMENT_COVERAGE = [
    "camera_id", "end_us", "start_us", "effective_start_us", "effective_end_us", "state",
    "expires_at_us", "analysed_us", "gated_us", "dropped_us",
]  # fmt: skip

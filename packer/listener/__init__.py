"""The listener: it takes webhook events, finds the builds that they may concern, and builds these again if need be."""

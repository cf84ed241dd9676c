//! Which addresses a sink may reach.

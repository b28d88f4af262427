//! Tests of the admin listener against an operator in memory.

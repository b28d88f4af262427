//! Keys, tokens, capabilities and the one decision whether a credential may do something.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

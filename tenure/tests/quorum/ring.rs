//! Keys are spread by weight, few move, and no hold is lost or doubled by it.

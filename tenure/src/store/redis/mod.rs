//! Redis: the rule runs inside the server, as a script.

pub mod script;

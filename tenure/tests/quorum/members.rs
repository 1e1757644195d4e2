//! Members come and go while locks are held.

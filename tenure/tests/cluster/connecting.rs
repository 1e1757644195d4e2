//! What is a cluster that will do, and what is told of one that will not.

use super::*;

//! Nodes fail, and their replicas follow them.

use super::*;

//! Grants from process to process of one machine: datagrams between abstract Unix sockets.
//!
//! ```text
//!   releaser ──commit──▶ file            a datagram: ┌─ id, 16 ─┬ fence, 8 ┬─ id … ─┐
//!       └────grants────▶ tenure/<128 random bits> ──▶ its process's Hub
//! ```
//!
//! Such a socket has no file and goes with its process, so there is nothing to clean up. Anybody on the machine may send
//! to one; a push is believed for the claim id in it, 128 random bits that stand only in the file. Elsewhere than on
//! Linux, and where no socket can be had, the inbox has no name, and those who wait ask again from time to time.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{Receiver, Sender};
#[cfg(target_os = "linux")]
pub(super) use linux::{Receiver, Sender};

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::BTreeMap;
    use std::net::Shutdown;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::sync::{Arc, Once};

    use crate::env::{Env, spawn_thread};
    use crate::proto::{ClaimId, Grant, Inbox};
    use crate::store::Hub;

    const PREFIX: &str = "tenure/";
    const GRANT: usize = 24;
    /// Grants in one datagram.
    const MOST: usize = 128;

    /// Where other processes tell this one of its grants.
    #[derive(Debug)]
    pub(in super::super) struct Receiver {
        name: Inbox,
        socket: Option<Arc<UnixDatagram>>,
        closed: Arc<AtomicBool>,
        listening: Once,
    }

    impl Receiver {
        pub(in super::super) fn bind() -> Self {
            let name = format!("{PREFIX}{:032x}", Env::system().bits());
            let address = SocketAddr::from_abstract_name(&name);
            let socket = address.and_then(|address| UnixDatagram::bind_addr(&address)).ok().map(Arc::new);
            let name = if socket.is_some() { Inbox::from(name) } else { Inbox::from("") };
            Self { name, socket, closed: Arc::default(), listening: Once::new() }
        }

        pub(in super::super) fn name(&self) -> &Inbox {
            &self.name
        }

        /// Delivers to `hub` from now on.
        pub(in super::super) fn listen(&self, hub: &Hub) {
            let Some(socket) = &self.socket else { return };
            self.listening.call_once(|| {
                let (socket, closed, hub) = (socket.clone(), self.closed.clone(), hub.clone());
                let spawned = spawn_thread("tenure-inbox", move || deliver(&socket, &closed, &hub));
                if let Err(error) = spawned {
                    tracing::warn!(%error, "no thread for pushes: who waits here asks again from time to time instead");
                }
            });
        }
    }

    impl Drop for Receiver {
        fn drop(&mut self) {
            self.closed.store(true, Relaxed);
            if let Some(socket) = &self.socket {
                // It wakes the thread, which then sees that it is over.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
    }

    fn deliver(socket: &UnixDatagram, closed: &AtomicBool, hub: &Hub) {
        let mut datagram = [0; GRANT * MOST];
        while let Ok(length) = socket.recv(&mut datagram) {
            if closed.load(Relaxed) {
                return;
            }
            for grant in datagram[..length].chunks_exact(GRANT) {
                let (id, fence) = grant.split_at(16);
                let Some(id) = ClaimId::from_bytes(id) else { continue };
                let fence = fence.iter().fold(0, |fence, byte| fence << 8 | u64::from(*byte));
                hub.deliver(&Grant { id, fence, inbox: Inbox::from("") });
            }
        }
    }

    /// Tells other processes of their grants.
    #[derive(Debug)]
    pub(in super::super) struct Sender(Option<UnixDatagram>);

    impl Sender {
        pub(in super::super) fn new() -> Self {
            let socket = UnixDatagram::unbound();
            // A process that does not read its inbox must hold nobody up.
            Self(socket.and_then(|socket| socket.set_nonblocking(true).map(|()| socket)).ok())
        }

        /// Sends each grant to its inbox. What does not arrive is asked for again.
        pub(in super::super) fn send(&self, grants: &[Grant]) {
            let mut by_inbox: BTreeMap<&Inbox, Vec<u8>> = BTreeMap::new();
            for grant in grants.iter().filter(|grant| grant.inbox.starts_with(PREFIX)) {
                let datagrams = by_inbox.entry(&grant.inbox).or_default();
                datagrams.extend_from_slice(grant.id.as_bytes());
                datagrams.extend_from_slice(&grant.fence.to_be_bytes());
            }
            let Some(socket) = &self.0 else { return };
            for (inbox, datagrams) in by_inbox {
                let Ok(address) = SocketAddr::from_abstract_name(inbox.as_bytes()) else { continue };
                for datagram in datagrams.chunks(GRANT * MOST) {
                    let _ = socket.send_to_addr(datagram, &address);
                }
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use crate::proto::{Grant, Inbox};
    use crate::store::Hub;

    /// An inbox that has no name.
    #[derive(Debug)]
    pub(in super::super) struct Receiver(Inbox);

    impl Receiver {
        pub(in super::super) fn bind() -> Self {
            Self(Inbox::from(""))
        }

        pub(in super::super) fn name(&self) -> &Inbox {
            &self.0
        }

        pub(in super::super) fn listen(&self, _hub: &Hub) {}
    }

    /// Sends nothing.
    #[derive(Debug)]
    pub(in super::super) struct Sender;

    impl Sender {
        pub(in super::super) fn new() -> Self {
            Self
        }

        pub(in super::super) fn send(&self, _grants: &[Grant]) {}
    }
}

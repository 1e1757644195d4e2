//! A node becomes a member of the quorum or the ring, and leaves again, while locks are held.

use tenure::store::{Quorum, Ring};
use tokio::runtime::Runtime;

use crate::faults::Evidence;
use crate::topology::Topology;
use crate::{Interrupted, is_interrupted};

/// Who changes the members.
#[derive(Debug)]
pub(crate) struct Changer {
    runtime: Runtime,
    quorum: Quorum,
    spare: String,
}

impl Changer {
    pub(crate) fn new(topology: Topology, url: &str, spare: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let quorum = runtime.block_on(async {
            match topology {
                Topology::Ring3 => Ring::connect(url).await.map(|ring| ring.quorum().clone()),
                _ => Quorum::connect(url).await,
            }
        });
        Self { runtime, quorum: quorum.expect("the nodes answer"), spare }
    }

    /// One change. It takes a view lease and a longest ttl.
    pub(crate) fn strike(&self) -> Result<Evidence, Interrupted> {
        let evidence = self.runtime.block_on(async {
            let before = self.quorum.members().await?;
            match before.members.contains(&self.spare) {
                true => self.quorum.remove(&self.spare).await?,
                false => self.quorum.add(&self.spare).await?,
            }
            let after = self.quorum.members().await?;
            let told = format!(
                "{} members at epoch {}, then {} at {}",
                before.members.len(),
                before.epoch,
                after.members.len(),
                after.epoch
            );
            Ok::<_, tenure::Error>(if after.epoch > before.epoch { Ok(told) } else { Err(told) })
        });
        if is_interrupted() {
            return Err(Interrupted);
        }
        Ok(evidence.unwrap_or_else(|error| Err(error.to_string())))
    }
}

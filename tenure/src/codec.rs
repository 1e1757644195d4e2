//! Metadata of the user's own type, in the format of the user's choice.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};

/// Turns values into the bytes of a claim's metadata and back. [`Json`] is built in; another is a few lines:
///
/// ```
/// use serde::{Serialize, de::DeserializeOwned};
/// use tenure::{Codec, Error, ErrorKind, Result};
///
/// struct MessagePack;
///
/// impl Codec for MessagePack {
///     fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>> {
///         rmp_serde::to_vec(value).map_err(|error| Error::new(ErrorKind::Invalid, error.to_string()))
///     }
///
///     fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
///         rmp_serde::from_slice(bytes).map_err(|error| Error::new(ErrorKind::Corrupt, error.to_string()))
///     }
/// }
///
/// # #[derive(Serialize, serde::Deserialize, PartialEq, Debug)]
/// # struct Job { invoice: u64 }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let locks = tenure::open("memory:").await?;
/// let lock = locks.mutex("billing").meta_as(&MessagePack, &Job { invoice: 42 }).build()?;
/// let guard = lock.lock().await?;
/// let job: Job = lock.info().await?.holders[0].meta_as(&MessagePack)?;
/// assert_eq!(job, Job { invoice: 42 });
/// # guard.release().await?;
/// # Ok(())
/// # }
/// ```
pub trait Codec {
    /// The bytes for a value.
    ///
    /// # Errors
    ///
    /// When the value has no form in this format.
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>>;

    /// The value that the bytes stand for. They come from whoever can write to the store: they may be anything.
    ///
    /// # Errors
    ///
    /// When they stand for no such value.
    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T>;
}

/// Metadata as JSON.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

impl Codec for Json {
    fn encode<T: Serialize>(&self, value: &T) -> Result<Vec<u8>> {
        serde_json::to_vec(value).map_err(|error| {
            Error::with_source(ErrorKind::Invalid, format!("the metadata cannot be written as JSON: {error}"), error)
        })
    }

    fn decode<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::with_source(ErrorKind::Corrupt, format!("the metadata is not what was expected: {error}"), error)
        })
    }
}

/// What a claim tells about itself: bytes, or why there are none.
pub(crate) type Told = Result<Bytes>;

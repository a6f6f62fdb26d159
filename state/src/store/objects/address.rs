//! From an address to a client: which kind of store, which bucket, which prefix, and the settings of the environment.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path as Key;
use object_store::{ClientConfigKey, ObjectStore};

use super::retry;
use crate::store::StoreError;
use crate::store::config::{Patience, StoreConfig};

/// A connection comes about in this time or is tried again.
const CONNECT: Duration = Duration::from_secs(5);

/// The client for `SCHEME://BUCKET/PREFIX`, and the prefix. Nothing is asked of the store yet.
pub(super) fn connect(address: &Path, config: &StoreConfig) -> Result<(Arc<dyn ObjectStore>, Key), StoreError> {
    let unusable = |why: String| StoreError::Address { place: address.to_owned(), why };
    let text = address.to_str().ok_or_else(|| unusable("it is not UTF-8".into()))?;
    let (scheme, rest) = text.split_once("://").ok_or_else(|| unusable("it has no scheme".into()))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        return Err(unusable(format!("it names no bucket: write {scheme}://BUCKET/PREFIX")));
    }
    let prefix = Key::parse(prefix.trim_end_matches('/')).map_err(|error| unusable(error.to_string()))?;
    let client = match scheme {
        #[cfg(feature = "s3")]
        "s3" => s3(bucket, config),
        #[cfg(feature = "gcs")]
        "gs" => gcs(bucket, config),
        #[cfg(feature = "azure")]
        "az" => azure(bucket, config),
        other => return Err(unusable(format!("nothing here speaks {other}"))),
    };
    Ok((client.map_err(|error| unusable(error.to_string()))?, prefix))
}

/// Lays the settings of the configuration over those of the environment. The three kinds of builders have the same
/// methods and no trait for them.
macro_rules! settle {
    ($builder:expr, $key:ty, $config:expr) => {{
        let patience: &Patience = &$config.patience;
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        let mut builder = $builder
            .with_config(<$key>::Client(ClientConfigKey::Timeout), ms(patience.request))
            .with_config(<$key>::Client(ClientConfigKey::ConnectTimeout), ms(CONNECT.min(patience.request)));
        for (name, value) in &$config.settings {
            let key: $key = name.to_ascii_lowercase().parse()?;
            builder = builder.with_config(key, value);
        }
        builder.with_retry(retry::of_client(patience))
    }};
}

#[cfg(feature = "s3")]
fn s3(bucket: &str, config: &StoreConfig) -> object_store::Result<Arc<dyn ObjectStore>> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
    let builder = settle!(AmazonS3Builder::from_env(), AmazonS3ConfigKey, config);
    Ok(Arc::new(builder.with_bucket_name(bucket).with_conditional_put(S3ConditionalPut::ETagMatch).build()?))
}

#[cfg(feature = "gcs")]
fn gcs(bucket: &str, config: &StoreConfig) -> object_store::Result<Arc<dyn ObjectStore>> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    let builder = settle!(GoogleCloudStorageBuilder::from_env(), GoogleConfigKey, config);
    Ok(Arc::new(builder.with_bucket_name(bucket).build()?))
}

#[cfg(feature = "azure")]
fn azure(container: &str, config: &StoreConfig) -> object_store::Result<Arc<dyn ObjectStore>> {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    let builder = settle!(MicrosoftAzureBuilder::from_env(), AzureConfigKey, config);
    Ok(Arc::new(builder.with_container_name(container).build()?))
}

//! A bucket by its URL and the settings that the tools of AWS take too.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::{Bucket, PAGE};
use crate::RegistryError;

/// How long a bucket's store is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Longest request, with its bytes.
    pub request: Duration,
    /// Requests that failed are made again until this long after the first.
    pub retry: Duration,
    /// And at most so often.
    pub retries: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(20),
            retry: Duration::from_secs(10),
            retries: 5,
        }
    }
}

/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);

impl Bucket {
    /// Opens `s3://bucket/prefix`, and looks whether it can be read, written on a condition, listed and
    /// deleted from. `settings` are those that begin with `AWS_` of an environment: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL` and what else
    /// `object_store` knows.
    ///
    /// # Errors
    /// [`RegistryError::Argument`] for a URL or setting that is none, [`RegistryError::Bucket`].
    pub async fn open(
        url: &str,
        settings: impl IntoIterator<Item = (String, String)>,
        patience: Patience,
    ) -> Result<Self, RegistryError> {
        let (bucket, prefix) = parse(url)?;
        // The one stack of TLS here; whoever was first has installed the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = ClientOptions::new()
            .with_timeout(patience.request)
            .with_connect_timeout(CONNECT.min(patience.request));
        let retry = RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(2),
                base: 2.0,
            },
            max_retries: patience.retries,
            retry_timeout: patience.retry,
        };
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry);
        for (name, value) in settings {
            let key = name.to_ascii_lowercase();
            if let ("AWS_", Ok(key)) = (name.get(..4).unwrap_or_default(), key.parse()) {
                builder = builder.with_config(key, value);
            }
        }
        let builder = builder.with_bucket_name(bucket);
        let endpoints = [AmazonS3ConfigKey::S3Endpoint, AmazonS3ConfigKey::Endpoint];
        let endpoint = endpoints
            .iter()
            .find_map(|key| builder.get_config_value(key));
        // Whoever writes http:// means it.
        let plain = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let builder = if plain {
            builder.with_allow_http(true)
        } else {
            builder
        };
        let store = builder
            .build()
            .map_err(|e| RegistryError::argument(url, super::told(&e)))?;
        Self::over(Arc::new(store), bucket, prefix).await
    }

    pub(super) async fn over(
        store: Arc<dyn ObjectStore>,
        bucket: &str,
        prefix: &str,
    ) -> Result<Self, RegistryError> {
        let url = format!("s3://{bucket}/{prefix}");
        let opened = Self {
            store,
            url: url.trim_end_matches('/').into(),
            prefix: prefix.into(),
            page: PAGE,
        };
        opened.probe().await?;
        Ok(opened)
    }
}

/// (bucket, prefix) of `s3://bucket/prefix`.
fn parse(url: &str) -> Result<(&str, &str), RegistryError> {
    let wrong = |problem: &str| {
        let problem = format!("{problem}; write it as s3://BUCKET or s3://BUCKET/PREFIX");
        RegistryError::argument(format!("{url:?}"), problem)
    };
    let rest = url
        .strip_prefix("s3://")
        .ok_or_else(|| wrong("does not begin with s3://"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let of_bucket = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
    if bucket.is_empty() || !bucket.bytes().all(of_bucket) {
        return Err(wrong("names no bucket"));
    }
    let prefix = prefix.trim_end_matches('/');
    let of_prefix = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let is_part =
        |part: &str| !part.is_empty() && part != "." && part != ".." && part.bytes().all(of_prefix);
    if !prefix.is_empty() && !prefix.split('/').all(is_part) {
        return Err(wrong(
            "has a prefix that is not letters, digits, `-`, `_` and `.` between slashes",
        ));
    }
    Ok((bucket, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read() {
        for (url, expected) in [
            ("s3://b", ("b", "")),
            ("s3://b/", ("b", "")),
            ("s3://my-bucket.x/a/b_c", ("my-bucket.x", "a/b_c")),
            ("s3://b/a/", ("b", "a")),
        ] {
            assert_eq!(parse(url).expect("right"), expected, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused_with_the_form() {
        for url in [
            "",
            "b",
            "s3:/b",
            "http://b",
            "s3://",
            "s3:///a",
            "s3://B/a",
            "s3://b/..",
            "s3://b/a//c",
            "s3://b/a b",
            "s3://b/%2e",
            "s3://u:p@b/",
        ] {
            let error = parse(url).expect_err(url).to_string();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
    }
}

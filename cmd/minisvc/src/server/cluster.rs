//! The cluster's facts on disk: what was chosen at the first start holds from then on.

use anyhow::{Context, bail};
use minisvc_apimachinery::ClusterConfig;
use std::path::Path;

const FILE: &str = "cluster.json";

/// Checks the facts against those of earlier starts and writes them down.
///
/// # Errors
/// If a network or the zone is another than before: Services and Pods have addresses and names from it.
pub fn settle(data_dir: &Path, wanted: ClusterConfig) -> anyhow::Result<ClusterConfig> {
    let path = data_dir.join(FILE);
    if let Ok(text) = std::fs::read_to_string(&path) {
        let known: ClusterConfig =
            serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
        let show = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        for (flag, before, now) in [
            ("--cluster-cidr", show(&known.cluster_cidrs), show(&wanted.cluster_cidrs)),
            ("--service-cidr", show(&known.service_cidrs), show(&wanted.service_cidrs)),
            ("--cluster-domain", known.cluster_domain.clone(), wanted.cluster_domain.clone()),
        ] {
            if before != now {
                bail!(
                    "{flag} was {before} at the first start and cannot become {now}: start with {flag} {before}"
                );
            }
        }
    }
    let text = serde_json::to_string_pretty(&wanted).context("encode the cluster's facts")?;
    super::write_private(&path, &text)?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_stay_what_they_were_and_other_facts_may_change() {
        let dir = tempfile::tempdir().unwrap();
        let first = settle(dir.path(), ClusterConfig::default()).unwrap();
        let mut other = first.clone();
        other.node_port_last = 31000;
        assert_eq!(settle(dir.path(), other.clone()).unwrap(), other);
        other.cluster_domain = "example.org".to_owned();
        let error = settle(dir.path(), other).unwrap_err().to_string();
        assert!(error.contains("--cluster-domain was cluster.local"), "{error}");
    }
}

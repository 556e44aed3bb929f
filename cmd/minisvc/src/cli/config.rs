//! Which server, as whom, in which namespace.

use super::api::{Api, Failure};
use clap::Args;
use minisvc_client::ApiClient;
use std::path::{Path, PathBuf};

/// Where a server's own kubeconfig lies.
const SERVER_KUBECONFIG: &str = "/etc/minisvc/kubeconfig";

/// Which server, as whom, in which namespace.
#[derive(Debug, Clone, Default, Args)]
pub struct ConnectArgs {
    /// The kubeconfig file to use [default: $KUBECONFIG, /etc/minisvc/kubeconfig, ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the request
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

impl ConnectArgs {
    /// Connects as the first kubeconfig that exists says.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub async fn connect(&self, fallbacks: &[PathBuf]) -> Result<Api, Failure> {
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let variable = env("KUBECONFIG");
        let home = env("HOME").map(PathBuf::from);
        let named = self.kubeconfig.is_some() || variable.is_some();
        let candidates =
            candidates(self.kubeconfig.as_deref(), variable.as_deref(), home.as_deref(), fallbacks);
        let path = candidates.iter().find(|path| path.exists()).or(candidates.first().filter(|_| named));
        let Some(path) = path else { return Err(Failure::NoKubeconfig { tried: candidates }) };
        let client = ApiClient::from_kubeconfig(path)
            .await
            .map_err(|source| Failure::Connect { path: path.clone(), source: Box::new(source) })?;
        let url = client.url().to_owned();
        let client = client.kube();
        let namespace = self.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Api { client, url, namespace })
    }
}

/// Where to look, in order.
fn candidates(
    flag: Option<&Path>,
    variable: Option<&std::ffi::OsStr>,
    home: Option<&Path>,
    fallbacks: &[PathBuf],
) -> Vec<PathBuf> {
    if let Some(flag) = flag {
        return vec![flag.to_owned()];
    }
    if let Some(variable) = variable {
        return std::env::split_paths(variable).filter(|path| !path.as_os_str().is_empty()).collect();
    }
    let mut paths = vec![PathBuf::from(SERVER_KUBECONFIG)];
    paths.extend_from_slice(fallbacks);
    paths.extend(home.map(|home| home.join(".kube/config")));
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flag_beats_the_variable_beats_the_files() {
        let (home, lab) = (Path::new("/home/me"), [PathBuf::from("/lab")]);
        let variable = std::ffi::OsStr::new("/a:/b");
        let paths =
            |flag: Option<&str>, variable| candidates(flag.map(Path::new), variable, Some(home), &lab);
        assert_eq!(paths(Some("/x"), Some(variable)), [PathBuf::from("/x")]);
        assert_eq!(paths(None, Some(variable)), [PathBuf::from("/a"), PathBuf::from("/b")]);
        let all = ["/etc/minisvc/kubeconfig", "/lab", "/home/me/.kube/config"].map(PathBuf::from);
        assert_eq!(paths(None, None), all);
    }
}

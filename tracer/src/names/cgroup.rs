//! Which containers the processes of a network namespace belong to, by the paths of their control groups.

use std::fmt;

/// Letters of a container's id that people look at.
const ID_LEN: usize = 12;
/// Containers that are named; of more it is told how many.
const NAMED_MAX: usize = 2;

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Container {
    /// Its id, whole.
    pub id: String,
    /// UID of the pod that it is in.
    pub pod: Option<String>,
}

impl Container {
    /// What `/proc/PID/cgroup` tells of the container that a process is in; `None` outside of containers.
    #[must_use]
    pub fn of(cgroup: &str) -> Option<Self> {
        let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        paths.filter_map(of_path).next()
    }
}

fn of_path(path: &str) -> Option<Container> {
    Some(Container {
        id: path.rsplit('/').find_map(id)?.to_owned(),
        pod: path.split('/').find_map(pod),
    })
}

/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope` of systemd, `cri-containerd:ID`,
/// else the plain id.
fn id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit(['-', ':']).next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// `podUID`, with systemd `kubepods-burstable-podUID.slice` where the UID has `_` for `-`.
fn pod(part: &str) -> Option<String> {
    // The driver of containerd puts `:cri-containerd:ID` behind it.
    let part = part.split(':').next()?;
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = part
        .strip_prefix("pod")
        .or_else(|| part.rsplit_once("-pod").map(|(_, uid)| uid))?;
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

/// Whose a network namespace is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A pod: all its containers share the namespace.
    Pod {
        /// Its UID.
        uid: String,
        /// `namespace/name`, where the node knows.
        name: Option<String>,
    },
    /// Containers outside of pods.
    Containers(Vec<String>),
}

impl Owner {
    /// Of the containers of its processes; `name` tells what the runtime calls a container with this id, and a pod
    /// with this UID.
    ///
    /// Processes outside of containers are of no account: somebody may look around in a pod's namespace. The
    /// machine's own namespace, in which containers can be as well, is not to be asked for.
    #[must_use]
    pub fn of(
        mut containers: Vec<Container>,
        container_name: &mut dyn FnMut(&str) -> Option<String>,
        pod_name: &mut dyn FnMut(&str) -> Option<String>,
    ) -> Option<Self> {
        containers.sort_unstable();
        containers.dedup();
        let first = containers.first()?;
        if let Some(uid) = &first.pod
            && containers
                .iter()
                .all(|container| container.pod.as_ref() == Some(uid))
        {
            return Some(Self::Pod {
                name: pod_name(uid),
                uid: uid.clone(),
            });
        }
        let names = containers
            .iter()
            .map(|container| container_name(&container.id).unwrap_or_else(|| short(&container.id)));
        Some(Self::Containers(names.collect()))
    }
}

fn short(id: &str) -> String {
    id.chars().take(ID_LEN).collect()
}

/// `pod default/web-1`, `pod 8dbc5577-…`, `container web1`, `containers 0123456789ab, web2 and 1 more`
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { name: Some(name), .. } => write!(f, "pod {name}"),
            Self::Pod { uid, name: None } => write!(f, "pod {uid}"),
            Self::Containers(names) => {
                let named = &names[..names.len().min(NAMED_MAX)];
                let s = if names.len() == 1 { "" } else { "s" };
                write!(f, "container{s} {}", named.join(", "))?;
                match names.len() - named.len() {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// `namespace/name` of a pod, of the name of the directory in which the kubelet keeps its logs:
/// `/var/log/pods/NAMESPACE_NAME_UID` (`BuildPodLogsDirectory`, `pkg/kubelet/kuberuntime/helpers.go`).
#[must_use]
pub fn pod_of_logs(directory: &str, uid: &str) -> Option<String> {
    let rest = directory.strip_suffix(uid)?.strip_suffix('_')?;
    // Names of namespaces and pods have no `_` (RFC 1123).
    let (namespace, name) = rest.split_once('_')?;
    let whole = !namespace.is_empty() && !name.is_empty() && !name.contains('_');
    whole.then(|| format!("{namespace}/{name}"))
}

/// The name that Docker gave a container, of `/var/lib/docker/containers/ID/config.v2.json`.
#[must_use]
pub fn name_of_docker(config: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Config {
        #[serde(rename = "Name")]
        name: String,
    }
    let config: Config = serde_json::from_str(config).ok()?;
    let name = config.name.trim_start_matches('/');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";

    #[test]
    fn containers_are_known_by_what_runtimes_call_their_groups() {
        let slice = format!("kubepods-burstable-pod{}.slice", UID.replace('-', "_"));
        for (group, pod) in [
            (format!("0::/system.slice/docker-{ID}.scope\n"), None),
            (format!("12:net_cls:/docker/{ID}\n"), None),
            (format!("0::/machine.slice/libpod-{ID}.scope/container\n"), None),
            (
                format!("0::/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{ID}.scope"),
                Some(UID),
            ),
            (format!("0::/kubepods/besteffort/pod{UID}/{ID}"), Some(UID)),
            (
                format!("0::/system.slice/containerd.service/{slice}:cri-containerd:{ID}"),
                Some(UID),
            ),
        ] {
            let expected = Container {
                id: ID.to_owned(),
                pod: pod.map(str::to_owned),
            };
            assert_eq!(Container::of(&group), Some(expected), "{group}");
        }
        for group in [
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice/session-1.scope\n",
            "",
            "0::/pod/x",
        ] {
            assert_eq!(Container::of(group), None, "{group}");
        }
    }

    fn owner(containers: &[(&str, Option<&str>)]) -> Option<String> {
        let containers = containers.iter().map(|(id, pod)| Container {
            id: (*id).to_owned(),
            pod: pod.map(str::to_owned),
        });
        let name = |id: &str| (id == "known").then(|| "web1".to_owned());
        let pod = |uid: &str| (uid == UID).then(|| "default/web-1".to_owned());
        let owner = Owner::of(containers.collect(), &mut { name }, &mut { pod });
        owner.map(|owner| owner.to_string())
    }

    #[test]
    fn a_namespace_is_its_pods_or_its_containers() {
        assert_eq!(owner(&[]), None);
        let pod = [("a", Some(UID)), ("b", Some(UID)), ("a", Some(UID))];
        assert_eq!(owner(&pod).unwrap(), "pod default/web-1");
        assert_eq!(owner(&[("a", Some("1234"))]).unwrap(), "pod 1234");
        assert_eq!(owner(&[("known", None)]).unwrap(), "container web1");
        assert_eq!(
            owner(&[(ID, None), (ID, None)]).unwrap(),
            "container 0123456789ab"
        );
        let many = [("a", None), ("known", None), ("z", Some(UID)), ("zz", None)];
        assert_eq!(owner(&many).unwrap(), "containers a, web1 and 2 more");
    }

    #[test]
    fn the_kubelet_and_docker_know_names() {
        let logs = format!("kube-system_coredns-7db6d8ff4d-x2x_{UID}");
        assert_eq!(
            pod_of_logs(&logs, UID).unwrap(),
            "kube-system/coredns-7db6d8ff4d-x2x"
        );
        for other in ["a_b_c", UID, "a_", &format!("_x_{UID}"), &format!("a_b_c_{UID}")] {
            assert_eq!(pod_of_logs(other, UID), None, "{other}");
        }
        assert_eq!(
            name_of_docker("{\"Name\":\"/web1\",\"ID\":\"0\"}").unwrap(),
            "web1"
        );
        assert_eq!(name_of_docker("{\"Name\":\"/\"}"), None);
        assert_eq!(name_of_docker("{}"), None);
    }

    #[test]
    fn any_text_is_read() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = (Container::of(text), pod_of_logs(text, UID), name_of_docker(text));
        });
    }
}

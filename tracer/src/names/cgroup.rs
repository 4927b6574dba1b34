//! Which container or pod a process belongs to, by the path of its control group.

/// Letters of a container's id that people look at.
const ID_LEN: usize = 12;

/// What `/proc/PID/cgroup` tells of the container that a process is in: `container 0123456789ab`, with `of pod UID`
/// where Kubernetes made it. `None` outside of containers.
#[must_use]
pub fn container(cgroup: &str) -> Option<String> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(of_path).next()
}

fn of_path(path: &str) -> Option<String> {
    let id = path.rsplit('/').find_map(id)?;
    let id = id.get(..ID_LEN)?;
    Some(match path.split('/').find_map(pod) {
        Some(pod) => format!("container {id} of pod {pod}"),
        None => format!("container {id}"),
    })
}

/// `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope` of systemd, else the plain id.
fn id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
}

/// `podUID`, with systemd `kubepods-burstable-podUID.slice` where the UID has `_` for `-`.
fn pod(part: &str) -> Option<String> {
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = part
        .strip_prefix("pod")
        .or_else(|| part.rsplit_once("-pod").map(|(_, uid)| uid))?;
    let uid = uid.replace('_', "-");
    let is_uid = uid.len() >= 32 && uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn containers_are_known_by_what_runtimes_call_their_groups() {
        let uid = "8dbc5577-d0e2-4706-8787-57d52c03ddf2";
        let of_pod = format!("container 0123456789ab of pod {uid}");
        for (group, expected) in [
            (
                format!("0::/system.slice/docker-{ID}.scope\n"),
                "container 0123456789ab",
            ),
            (format!("12:net_cls:/docker/{ID}\n"), "container 0123456789ab"),
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{}.slice/cri-containerd-{ID}.scope",
                    uid.replace('-', "_")
                ),
                &of_pod,
            ),
            (format!("0::/kubepods/besteffort/pod{uid}/{ID}"), &of_pod),
        ] {
            assert_eq!(container(&group).as_deref(), Some(expected), "{group}");
        }
        for group in [
            "0::/init.scope\n",
            "0::/user.slice/user-1000.slice/session-1.scope\n",
            "",
            "0::/pod/x",
        ] {
            assert_eq!(container(group), None, "{group}");
        }
    }

    #[test]
    fn any_text_is_read() {
        bolero::check!().with_type::<String>().for_each(|text| {
            let _ = container(text);
        });
    }
}

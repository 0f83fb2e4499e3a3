//! Synchronization: a plugin that joins is told of all that there is, in as many messages as it takes.

use protobuf::Message;
use windlass_api::nri::{Container, ContainerUpdate, PodSandbox, SynchronizeRequest, SynchronizeResponse};

use crate::error::{Error, Result};
use crate::frame::MAX_MESSAGE;
use crate::peer::Peer;

/// For what is put around the lists.
const ENVELOPE: usize = 4096;

/// Tells `peer` of everything; answers what it wants changed.
pub async fn synchronize(
    peer: &Peer,
    pods: Vec<PodSandbox>,
    containers: Vec<Container>,
) -> Result<Vec<ContainerUpdate>> {
    let mut parts = split(pods, containers, MAX_MESSAGE - ENVELOPE)?;
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let answer: SynchronizeResponse = peer.ask("Synchronize", &part).await?;
        if !answer.more || !answer.update.is_empty() {
            let source = Box::new(Error::Protocol("it cannot be synchronized in parts".into()));
            return Err(Error::Plugin { plugin: peer.name().to_owned(), method: "Synchronize", source });
        }
    }
    let answer: SynchronizeResponse = peer.ask("Synchronize", &last).await?;
    Ok(answer.update)
}

/// Requests of `max` bytes at most, in order, all but the last of them with `more`.
fn split(pods: Vec<PodSandbox>, containers: Vec<Container>, max: usize) -> Result<Vec<SynchronizeRequest>> {
    let mut parts = vec![SynchronizeRequest::new()];
    let mut left = max;
    let mut room = |parts: &mut Vec<SynchronizeRequest>, size: u64| {
        // A tag and a length go before an entry.
        let size = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(6);
        if size > max {
            return Err(Error::Oversized(size));
        }
        if size > left {
            if let Some(full) = parts.last_mut() {
                full.more = true;
            }
            parts.push(SynchronizeRequest::new());
            left = max;
        }
        left -= size;
        Ok(())
    };
    for pod in pods {
        room(&mut parts, pod.compute_size())?;
        parts.last_mut().expect("there is always a part").pods.push(pod);
    }
    for container in containers {
        room(&mut parts, container.compute_size())?;
        parts.last_mut().expect("there is always a part").containers.push(container);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_lost_between_parts_and_no_part_is_too_long() {
        let pod = |i: usize| PodSandbox { id: format!("pod{i}"), ..Default::default() };
        let container = |i: usize| Container { id: "c".repeat(i % 50 + 1), ..Default::default() };
        for max in [60, 100, 1000, 100_000] {
            let parts = split((0..100).map(pod).collect(), (0..300).map(container).collect(), max).unwrap();
            assert!(parts.iter().all(|p| p.compute_size() <= max as u64 + 2), "{max}");
            let (last, others) = parts.split_last().unwrap();
            assert!(!last.more && others.iter().all(|p| p.more));
            let pods: Vec<_> = parts.iter().flat_map(|p| &p.pods).collect();
            assert!(pods.iter().enumerate().all(|(i, p)| p.id == format!("pod{i}")) && pods.len() == 100);
            assert_eq!(parts.iter().map(|p| p.containers.len()).sum::<usize>(), 300);
        }
        assert_eq!(split(vec![], vec![], 10).unwrap().len(), 1);
        assert!(split(vec![pod(0)], vec![], 9).is_err());
    }
}

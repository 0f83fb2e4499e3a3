//! Ends that cannot be written down, and starts that do not end.

use super::*;

/// Starts a container whose start hangs, and stops it when the call is made that does not come back.
async fn stop_of_a_hung_start(stack: &Stack, container: &Container, call: &str) -> Error {
    let call = format!("{call} {}", container.id);
    let (starting, stopping) = tokio::join!(stack.start(container), async {
        stack.tasks.until(|calls| calls.contains(&call)).await;
        stack.stop(container, 1).await
    });
    stopping.unwrap();
    starting.unwrap_err()
}

#[tokio::test]
async fn a_task_is_deleted_only_when_its_end_is_written_down() {
    let mut stack = Stack::new().await;
    let deleted = |stack: &Stack, id: &str| stack.tasks.calls().contains(&format!("delete {id}"));
    let (a, b) = (stack.running("a").await, stack.running("b").await);
    stack.refuse.store(true, Ordering::SeqCst);
    for container in [&a, &b] {
        stack.tasks.end(&container.id, 7);
        assert_eq!(exited(container).await.exit_code, 7, "it is seen all the same");
        stack.idle(container).await;
        assert!(!deleted(&stack, &container.id), "its shim would forget how it ended");
    }
    // The daemon is killed, and there is room again: the shim still knows.
    stack.cri.state.containers.remove(&b.id);
    stack.refuse.store(false, Ordering::SeqCst);
    stack.tasks.until(|calls| calls.contains(&format!("delete {}", a.id))).await;
    assert_eq!(stack.written(&a.id).await.exit_code, 7, "written before it was deleted");
    stack.restarted().await;
    let found = stack.found(&b);
    assert_eq!(exited(&found).await.exit_code, 7);
    stack.idle(&found).await;
    assert_eq!((stack.written(&b.id).await.exit_code, deleted(&stack, &b.id)), (7, true));
}

#[tokio::test]
async fn a_start_that_hangs_does_not_hold_a_stop_for_ever() {
    let stack = Stack::new().await;
    let container = stack.made("a", ContainerStatus::default()).await;
    stack.tasks.hung_start.store(true, Ordering::SeqCst);
    let error = stop_of_a_hung_start(&stack, &container, "start").await;
    assert!(error.chain().contains("did not answer"));
    assert_eq!(container.phase(), Phase::Exited);
    assert_eq!(stack.written(&container.id).await.reason, "StartError");
    assert!(stack.tasks.calls().contains(&format!("delete {}", container.id)), "no task is left");
}

#[tokio::test]
async fn a_task_that_no_record_names_is_taken_down() {
    let mut stack = Stack::new().await;
    let known = stack.running("a").await;
    stack.tasks.put("ghost", Status::Running);
    stack.restarted().await;
    stack.tasks.until(|calls| calls.contains(&"delete ghost".to_owned())).await;
    assert_eq!(stack.found(&known).phase(), Phase::Running);
    assert_eq!(stack.cri.tasks.ids(&stack.cri.cx).await, std::slice::from_ref(&known.id));
}

#[tokio::test]
async fn a_start_that_was_given_up_runs_nothing_later() {
    let stack = Stack::new().await;
    let container = stack.made("a", ContainerStatus::default()).await;
    stack.tasks.hung_create.store(true, Ordering::SeqCst);
    stop_of_a_hung_start(&stack, &container, "create").await;
    stack.tasks.release.notify_one();
    let deletions = |calls: &[String]| calls.iter().filter(|call| call.starts_with("delete ")).count();
    stack.tasks.until(|calls| deletions(calls) >= 2).await;
    stack.idle(&container).await;
    assert!(!stack.tasks.calls().contains(&format!("start {}", container.id)));
    assert_eq!(stack.written(&container.id).await.reason, "StartError");
    assert!(stack.cri.tasks.ids(&stack.cri.cx).await.is_empty(), "no task is left");
}

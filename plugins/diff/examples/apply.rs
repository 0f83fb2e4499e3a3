//! Applies layer files, each to a directory of its own or one after the other to one, and says how long it took:
//! `apply [--overlay] TARGET LAYER...`

use std::sync::Arc;
use std::time::Instant;

use windlass_core::diff::Differ;
use windlass_core::mount::Mount;
use windlass_diff::{Limit, Walking};

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let overlay = args.first().is_some_and(|a| a == "--overlay");
    if overlay {
        args.remove(0);
    }
    let (target, layers) = args.split_first().expect("usage: apply [--overlay] TARGET LAYER...");
    let content =
        windlass_content::Store::open(&std::env::temp_dir().join("apply-example")).expect("a content store");
    let differ = Walking::new(Arc::new(content), Limit::default());
    let begun = Instant::now();
    let mut total = 0;
    for layer in layers {
        let mount = if overlay {
            let options = vec![format!("upperdir={target}")];
            Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }
        } else {
            let options = vec!["rbind".into(), "rw".into()];
            Mount { kind: "bind".into(), source: target.clone(), target: String::new(), options }
        };
        let mut file = std::fs::File::open(layer).expect("open the layer");
        let media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        match differ.apply_stream(media_type, &mut file, &[mount]) {
            Ok(applied) => total += applied.size,
            Err(error) => {
                eprintln!("{layer}: {}", error.chain());
                std::process::exit(1);
            }
        }
    }
    println!("{} bytes in {:.3} s", total, begun.elapsed().as_secs_f64());
}

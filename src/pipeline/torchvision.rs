//! The names that torchvision, and timm where it has others, give to the weights of their architectures.

use super::{Layers, Recipe, Role};

/// What timm calls the linear layers of its VGGs.
const TIMM_LINEARS: [&str; 3] = ["pre_logits.fc1", "pre_logits.fc2", "head.fc"];

/// Torchvision's networks that are known here.
const NETWORKS: [&str; 9] =
    ["vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "alexnet"];

/// The network of torchvision whose layers before the classifier have just these tensors among their names.
pub fn torchvision_network(names: &[&str]) -> Option<&'static str> {
    let features = |name: &&str| name.starts_with("features.") && !name.ends_with(".num_batches_tracked");
    let found: Vec<&str> = names.iter().copied().filter(features).collect();
    NETWORKS.into_iter().find(|network| {
        let text = format!("[data]\nsource = \"builtin\"\nsize = 224\n[network]\narchitecture = {network:?}\n");
        let Ok(recipe) = Recipe::parse(network, network, &text, &[]) else { return false };
        let layers = recipe.foreign_names(None);
        let tensors: Vec<String> = recipe
            .stages
            .iter()
            .flat_map(|stage| {
                let layer = |(layer, kind, _)| (format!("block{}.{layer}", stage.number), kind);
                stage.block.tensors(Role::Block, 1).into_iter().map(layer)
            })
            .filter_map(|(own, kind)| {
                let (_, theirs) = layers.iter().find(|(name, _)| *name == own)?;
                Some(format!("{theirs}.{kind}"))
            })
            .collect();
        tensors.len() == found.len() && tensors.iter().all(|name| found.contains(&name.as_str()))
    })
}

impl Recipe {
    /// What torchvision calls each layer that has weights, behind our own name for it: `block1.conv` is `features.0`,
    /// `auxiliary.linear1` the first of `classifier`. Below a layer the names are the same on both sides (`weight`, `bias`,
    /// `running_mean`, `running_var`). Nothing where torchvision has no such network.
    pub fn torchvision_names(&self) -> Option<Vec<(String, String)>> {
        let linears = self.torchvision_linears?.map(|at| format!("classifier.{at}"));
        let head = self.stages.last()?.head.as_ref()?;
        let mut all = self.torchvision_features();
        all.extend(named(head, &linears)?);
        Some(all)
    }

    /// What other programs call the layers of the blocks, and of a classifier of the last, behind our own names; a layer
    /// may have several. Nothing where they have no such network.
    pub(super) fn foreign_names(&self, head: Option<&Layers>) -> Vec<(String, String)> {
        let Some(linears) = self.torchvision_linears else { return Vec::new() };
        let mut all = self.torchvision_features();
        if let Some(head) = head {
            all.extend(named(head, &linears.map(|at| format!("classifier.{at}"))).into_iter().flatten());
            if self.architecture.starts_with("vgg") {
                all.extend(named(head, &TIMM_LINEARS.map(String::from)).into_iter().flatten());
            }
        }
        all
    }

    /// The layers of the blocks.
    fn torchvision_features(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut feature = 0;
        for stage in &self.stages {
            for name in stage.block.names(Role::Block) {
                // Poolings and ReLUs count as well: theirs is one list of all layers before the classifier.
                if let Some(name) = name {
                    all.push((format!("block{}.{name}", stage.number), format!("features.{feature}")));
                }
                feature += 1;
            }
        }
        all
    }
}

/// The layers of a classifier that has just as many with weights.
fn named(head: &Layers, names: &[String; 3]) -> Option<Vec<(String, String)>> {
    let own: Vec<String> = head.names(Role::Head).into_iter().flatten().collect();
    (own.len() == names.len())
        .then(|| own.iter().zip(names).map(|(own, theirs)| (format!("auxiliary.{own}"), theirs.clone())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(network: &str) -> Option<Vec<(String, String)>> {
        let text = format!("[data]\nsource = \"builtin\"\nsize = 64\n[network]\n{network}\n[auxiliary]\nk = 1\n");
        Recipe::parse("p", "p", &text, &[]).unwrap().torchvision_names()
    }

    fn theirs(network: &str) -> Vec<String> {
        names(network).unwrap().into_iter().map(|(_, theirs)| theirs).collect()
    }

    /// The numbers of the layers with weights, as torchvision's state dicts have them.
    #[test]
    fn layers_are_called_as_in_torchvision() {
        let numbered = |features: &[usize], classifier: &[usize]| -> Vec<String> {
            let features = features.iter().map(|at| format!("features.{at}"));
            features.chain(classifier.iter().map(|at| format!("classifier.{at}"))).collect()
        };
        let vgg11 = [0, 3, 6, 8, 11, 13, 16, 18];
        let vgg11_bn = [0, 1, 4, 5, 8, 9, 11, 12, 15, 16, 18, 19, 22, 23, 25, 26];
        let vgg19 = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34];
        assert_eq!(theirs("architecture = \"vgg11\"\nwidth = 2"), numbered(&vgg11, &[0, 3, 6]));
        assert_eq!(theirs("architecture = \"vgg11_bn\"\nwidth = 2\ndropout = 0"), numbered(&vgg11_bn, &[0, 3, 6]));
        assert_eq!(theirs("architecture = \"vgg19\"\nwidth = 2"), numbered(&vgg19, &[0, 3, 6]));
        assert_eq!(theirs("architecture = \"alexnet\"\nwidth = 2"), numbered(&[0, 3, 6, 8, 10], &[1, 4, 6]));
    }

    #[test]
    fn our_names_are_those_of_the_weights() {
        let all = names("architecture = \"vgg11_bn\"\nwidth = 2").unwrap();
        let pair = |at: usize| (all[at].0.as_str(), all[at].1.as_str());
        assert_eq!(pair(3), ("block2.bn", "features.5"));
        assert_eq!(pair(18), ("auxiliary.linear3", "classifier.6"));
    }

    #[test]
    fn a_network_is_known_by_the_names_of_its_tensors() {
        let tensors: Vec<String> = [("0", 2), ("3", 2), ("6", 2), ("8", 2), ("10", 2)]
            .iter()
            .flat_map(|(layer, _)| ["weight", "bias"].map(|kind| format!("features.{layer}.{kind}")))
            .chain(["classifier.1.weight".into()])
            .collect();
        let names: Vec<&str> = tensors.iter().map(String::as_str).collect();
        assert_eq!(torchvision_network(&names), Some("alexnet"));
        assert_eq!(torchvision_network(&names[..8]), None);
    }

    #[test]
    fn torchvision_has_no_simcnn() {
        assert_eq!(names("architecture = \"simcnn\""), None);
        assert_eq!(names("architecture = \"custom\"\nblocks = [[{ conv = 4 }, \"relu\"]]"), None);
    }
}

//! The names that torchvision gives to the weights of its own architectures.

use super::{Recipe, Role};

impl Recipe {
    /// What torchvision calls each layer that has weights, behind our own name for it: `block1.conv` is `features.0`,
    /// `auxiliary.linear1` the first of `classifier`. Below a layer the names are the same on both sides (`weight`, `bias`,
    /// `running_mean`, `running_var`). Nothing where torchvision has no such network.
    pub fn torchvision_names(&self) -> Option<Vec<(String, String)>> {
        let mut linears = self.torchvision_linears?.into_iter();
        let head = self.stages.last()?.head.as_ref()?;
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
        for name in head.names(Role::Head).into_iter().flatten() {
            all.push((format!("auxiliary.{name}"), format!("classifier.{}", linears.next()?)));
        }
        linears.next().is_none().then_some(all)
    }
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
    fn torchvision_has_no_simcnn() {
        assert_eq!(names("architecture = \"simcnn\""), None);
        assert_eq!(names("architecture = \"custom\"\nblocks = [[{ conv = 4 }, \"relu\"]]"), None);
    }
}

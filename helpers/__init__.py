"""Look inside 3D CNNs trained on brain MRI. The map of the package, from the roof to the ground.

command
    What ``brain-cnns`` is: verbs, arguments, exit codes.
exercises
    Checks for the exercises of the chapters.
study
    Verbs over a folder of scans: preprocess, train, explain, group, report.
viewers
    Pictures: three planes with an overlay, interactive on a static page.
evaluation
    Is the explanation right? Localization, faithfulness, sanity checks, regions, groups.
attribution
    Which voxels did the network use? One function a method, one contract for all.
activation_maximization
    What does a neuron want to see? Objectives, images, regularizers, transforms, one loop.
warping
    Simulators: networks that deform a brain until another network changes its mind.
models
    Networks, training, baselines, pretrained weights.
cohorts
    Volumes, labels and, where known, the truth: simulated, shipped, or from a BIDS folder.
anatomy
    The MNI152 template on a grid: T1, tissues, brain mask, atlas regions.
grids, fields
    Voxel grids and NIfTI; deformations and their Jacobians.
results
    Committed results of long computations.
keyed, processes, tensors
    Files that know what they were made from; which processes share the work; tensors larger than
    memory.
runtime
    Profile, device, seeds, progress, safe files.
errors
    What one part raises and another catches.
"""

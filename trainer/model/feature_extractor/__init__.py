"""Feature extractors: networks in files that make features of examples.

The file is a safetensors file. Its metadata has one key, ``extractor``, whose value is JSON:

    {"format": "flowfabric.features/1",
     "shape": [3, 299, 299],      examples that the network takes: [C, H, W] of an image, or [D] of a point
     "mean": [0.0], "std": [1.0], subtracted from and divided by, one value for all channels or one for each
     "resize": "antialiased",     how images of another size are resized: also bilinear or tensorflow, without a filter
     "eight_bits": false,         whether images are first clipped and rounded to the 256 values of a file of pictures
     "layers": [{"kind": "conv2d", "in_channels": 3, ...}, ...]}

Its tensors are those of a ``torch.nn.Sequential`` of these layers, ``0.weight`` and so on, as floating point numbers.
The kinds of layers are those of :mod:`trainer.model.feature_extractor.layers`: convolutions, linear layers, batch
normalisation with its running statistics, layer normalisation, activations, pools, attention, and branches whose
results are put side by side (as in Inception) or added (as in residual networks). What the last layer returns are the
features: [F] of an example, or [F, rows, columns] of its places, which are flattened where sets of examples are
compared. Nothing in it is code. `extractor.write_extractor` writes such a file, and `importing.import_extractor` makes
one of a published vision transformer or of Inception v3.

The weights of Inception (``--layout inception-torchvision``, ``inception-fid``, ``inception-fid-tensorflow``) are a
safetensors file with the names of torchvision's ``inception_v3``: ``Conv2d_1a_3x3.conv.weight`` and
``Conv2d_1a_3x3.bn.{weight,bias,running_mean,running_var}`` to ``Mixed_7c.branch_pool...``; ``fc.*`` and ``AuxLogits.*``
may be there and are not used, but for the number of classes, 1000 or 1008, by which the two networks differ. Images of
any size, -1 to 1, are rounded to 8 bits and resized to 299 x 299; the features are the 2,048 of the last pool:

    layout                     means of pools            last pool of Mixed_7c  resized               then
    inception-torchvision      count zeros at the edges  mean                   with antialiasing     x
    inception-fid              leave them out            maximum                without               x
    inception-fid-tensorflow   leave them out            maximum                as first TensorFlow   (p - 128) / 128
"""

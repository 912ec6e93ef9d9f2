"""Everything about pictures: data, base models, latents, the denoising loss, drawing."""

import logging

# Importing diffusers' pipelines makes transformers tell at length that its picture readers work with PIL, for want of
# torchvision; that is as it should be.
logging.getLogger("transformers.utils.import_utils").addFilter(lambda record: "torchvision" not in str(record.msg))

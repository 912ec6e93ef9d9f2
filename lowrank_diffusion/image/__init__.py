"""Everything about pictures: data, base models, latents, the denoising loss, drawing."""

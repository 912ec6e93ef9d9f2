"""How the embedded base model is made: npm packages of emoji in, a StableDiffusionXLPipeline folder out."""

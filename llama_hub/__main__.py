"""``python -m llama_hub`` is the ``llama-hub`` command."""

from llama_hub.cli.main import main

if __name__ == "__main__":
    main()

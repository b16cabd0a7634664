"""Commands of train.py besides Lightning's: `python train.py NAME …` calls `main(arguments)` in the module NAME."""

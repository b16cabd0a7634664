"""Commands of train.py besides Lightning's: `python train.py NAME …` calls `main(arguments)` of the module NAME."""

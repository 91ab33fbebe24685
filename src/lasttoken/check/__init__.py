"""What is wrong with a data set before anything is trained on it: findings, each with its rows, none of them repaired unasked."""
